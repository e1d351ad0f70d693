export MODEL_DIR="stabilityai/stable-diffusion-xl-base-1.0"
accelerate launch train_controlnet_sdxl.py \
 --pretrained_model_name_or_path=$MODEL_DIR \
 --output_dir=controlnet \
 --dataset_name=fusing/fill50k --caption_column=words \
 --mixed_precision="fp16" \
 --resolution=1024 \
 --learning_rate=1e-5 \
 --max_train_steps=15000 \
 --validation_image "./one.png" "./two.png" \
 --validation_prompt "red circle with blue background" "cyan circle with flowers" \
 --validation_steps=100 \
 --train_batch_size=1 \
 --gradient_accumulation_steps=4 \
 --report_to="wandb" \
 --seed=42 \
 --push_to_hub
