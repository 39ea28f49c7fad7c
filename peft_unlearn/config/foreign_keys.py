"""Keys of other trainers' configuration files and of our own older ones, and what this project calls them now."""

AXOLOTL = "axolotl"
FACTORY = "LLaMA-Factory"
TRL = "TRL"
PEFT = "PEFT"
OLD = "older transformers"
BEFORE = "peft-unlearn up to 0.1.0"
LATELY = "peft-unlearn up to 0.3.0"

# foreign key: (whose it is, what to do instead)
FOREIGN_KEYS: dict[str, tuple[str, str]] = {
    # model
    "base_model": (AXOLOTL, "write model_name_or_path"),
    "model_name": (FACTORY, "write model_name_or_path"),
    "model": (OLD, "write model_name_or_path"),
    "model_id": (OLD, "write model_name_or_path"),
    "base_model_config": (AXOLOTL, "write model_name_or_path alone"),
    "torch_dtype": (OLD, "write dtype"),
    "infer_dtype": (FACTORY, "write dtype"),
    "flash_attention": (AXOLOTL, "write attn_implementation: flash_attention_2"),
    "flash_attn": (FACTORY, "write attn_implementation: flash_attention_2"),
    "sdp_attention": (AXOLOTL, "write attn_implementation: sdpa"),
    "xformers_attention": (AXOLOTL, "write attn_implementation: sdpa"),
    "quantization_bit": (FACTORY, "write load_in_4bit: true or load_in_8bit: true"),
    "quantization_method": (FACTORY, "write load_in_4bit: true or load_in_8bit: true"),
    "double_quantization": (FACTORY, "write use_bnb_nested_quant"),
    "quantization_type": (FACTORY, "write bnb_4bit_quant_type"),
    "bnb_4bit_use_double_quant": (PEFT, "write use_bnb_nested_quant"),
    "bnb_4bit_compute_dtype": (PEFT, "write dtype, which is the compute type too"),
    "load_8bit": (AXOLOTL, "write load_in_8bit"),
    "load_4bit": (AXOLOTL, "write load_in_4bit"),
    # adapter
    "adapter": (AXOLOTL, "leave it out: LoRA is always used, and load_in_4bit: true makes it QLoRA"),
    "finetuning_type": (FACTORY, "leave it out: LoRA is always used"),
    "lora_rank": (FACTORY, "write lora_r"),
    "lora_target": (FACTORY, "write lora_target_modules"),
    "lora_target_linear": (AXOLOTL, "write lora_target_modules: all-linear"),
    "target_modules": (PEFT, "write lora_target_modules"),
    "r": (PEFT, "write lora_r"),
    "rank": (PEFT, "write lora_r"),
    "lora_model_dir": (AXOLOTL, "write adapter_name_or_path"),
    "peft_use_dora": (AXOLOTL, "write use_dora"),
    "peft_use_rslora": (AXOLOTL, "write use_rslora"),
    "peft_init_lora_weights": (AXOLOTL, "write init_lora_weights"),
    "additional_target": (FACTORY, "write lora_modules_to_save"),
    # data
    "dataset": (FACTORY, "write forget_dataset and retain_dataset"),
    "datasets": (AXOLOTL, "write forget_dataset and retain_dataset"),
    "dataset_name": (TRL, "write forget_dataset and retain_dataset"),
    "dataset_dir": (FACTORY, "write the path into forget_dataset and retain_dataset"),
    "train_file": (OLD, "write forget_dataset and retain_dataset"),
    "train_dataset": (TRL, "write forget_dataset and retain_dataset"),
    "test_datasets": (AXOLOTL, "write eval_dataset, a mapping of names"),
    "val_set_size": (AXOLOTL, "write eval_dataset, a mapping of names to sets of their own"),
    "val_size": (FACTORY, "write eval_dataset, a mapping of names to sets of their own"),
    "max_samples": (FACTORY, "write a slice into the set, for example {path: ..., split: 'train[:100]'}"),
    "template": (FACTORY, "leave it out: the tokenizer's own chat template is used"),
    "chat_template": (AXOLOTL, "leave it out: the tokenizer's own chat template is used"),
    "cutoff_len": (FACTORY, "write max_length"),
    "sequence_len": (AXOLOTL, "write max_length"),
    "max_seq_length": (TRL, "write max_length"),
    "model_max_length": (OLD, "write max_length"),
    "sample_packing": (AXOLOTL, "leave it out: rows are not packed"),
    "packing": (TRL, "leave it out: rows are not packed"),
    "train_on_inputs": (AXOLOTL, "leave it out: prompts never count in the loss"),
    "completion_only_loss": (TRL, "leave it out: prompts never count in the loss"),
    "stage": (FACTORY, "leave it out, and choose a method"),
    "rl": (AXOLOTL, "leave it out, and choose a method"),
    # training
    "micro_batch_size": (AXOLOTL, "write per_device_train_batch_size"),
    "batch_size": (AXOLOTL, "write per_device_train_batch_size"),
    "per_gpu_train_batch_size": (OLD, "write per_device_train_batch_size"),
    "eval_batch_size": (AXOLOTL, "write per_device_eval_batch_size"),
    "grad_accum": (AXOLOTL, "write gradient_accumulation_steps"),
    "num_epochs": (AXOLOTL, "write num_train_epochs"),
    "epochs": (AXOLOTL, "write num_train_epochs"),
    "lr": (AXOLOTL, "write learning_rate"),
    "lr_scheduler": (AXOLOTL, "write lr_scheduler_type"),
    "optimizer": (AXOLOTL, "write optim"),
    "warmup_ratio": (OLD, "write warmup_steps with a share below 1, for example warmup_steps: 0.1"),
    "gradient_clipping": (AXOLOTL, "write max_grad_norm"),
    "evaluation_strategy": (OLD, "write eval_strategy"),
    "saves_per_epoch": (AXOLOTL, "write save_strategy and save_steps"),
    "evals_per_epoch": (AXOLOTL, "write eval_strategy and eval_steps"),
    "save_safetensors": (OLD, "leave it out: adapters are always written as safetensors"),
    "group_by_length": (OLD, "leave it out: rows are paired by seed"),
    "logging_dir": (OLD, "set the environment variable TENSORBOARD_LOGGING_DIR"),
    "overwrite_output_dir": (OLD, "write another output_dir, or remove the old folder"),
    "overwrite_cache": (FACTORY, "leave it out: nothing is cached"),
    "resume_from": (AXOLOTL, "write resume_from_checkpoint"),
    "auto_resume_from_checkpoints": (AXOLOTL, "write resume_from_checkpoint: true"),
    "wandb_project": (AXOLOTL, "write report_to: wandb and project"),
    "wandb_name": (AXOLOTL, "write report_to: wandb and run_name"),
    "plot_loss": (FACTORY, "leave it out"),
    "no_cuda": (OLD, "write use_cpu"),
    "trust_remote_code": (TRL, "leave it out: code from a model's repository is never run"),
    # unlearning
    "beta": (TRL, "write forget_loss_args: {beta: ...}"),
    "forget_split": ("OpenUnlearning", "write forget_dataset: {path: locuslab/TOFU, name: forget10}"),
    "retain_split": ("OpenUnlearning", "write retain_dataset: {path: locuslab/TOFU, name: retain90}"),
    "trainer": ("OpenUnlearning", "write method"),
    # our own, before they had the field's names
    "resist": (BEFORE, "write sam_rho"),
    "survive": (BEFORE, "write train_quantized"),
    "inner_coef": (BEFORE, "write logit_lens_coef"),
    "dual_rate": (BEFORE, "write lagrangian_rate"),
    "alternate": (LATELY, "write answers: refuse or column"),
}

# key: its old values, and what they are called now
RENAMED_VALUES = {"forget_loss": {"odds": "log_odds", "flatten": "logit_margin"}}
