"""Other trainers' configurations become ours."""
