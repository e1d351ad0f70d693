# the flags of SD-Guide's full fine-tuning of SDXL, with paths of our own
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 4 sdxl_train.py \
  --pretrained_model_name_or_path=models/sdxl --output_dir=runs --output_name=guide \
  --logging_dir=runs/log --dataset_config=dataset.toml \
  --learning_rate=5e-6 --min_bucket_reso=256 --max_bucket_reso=4096 \
  --save_model_as=safetensors --lr_scheduler=constant_with_warmup --lr_warmup_steps=0 \
  --train_batch_size=4 --gradient_checkpointing --max_train_steps=10000000 \
  --save_every_n_epochs=1 --save_state --mixed_precision=bf16 --save_precision=bf16 \
  --no_half_vae --cache_text_encoder_outputs_to_disk --cache_latents_to_disk \
  --optimizer_type=Adafactor \
  --optimizer_args="scale_parameter=False","relative_step=False","warmup_init=False" \
  --max_data_loader_n_workers=0 --xformers --bucket_reso_steps=32 --min_snr_gamma=5 \
  --noise_offset=0.0357 --adaptive_noise_scale=0.00357 --max_token_length=225 \
  --bucket_no_upscale --sample_sampler=euler_a --sample_prompts=prompts.txt \
  --sample_every_n_steps=5000 --full_bf16
