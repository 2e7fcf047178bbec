"""What to suggest for an option that doesn't exist: a similar name, or our name for another tool's option.

The other tools are the Transformers trainer, TRL, LLaMA-Factory, ms-swift, Axolotl and Whisper's program. A
suggestion is the option's name here, or what to do instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection

#: Our options and other tools' names for them. The first of ours that the command has is suggested.
_OURS = {
    "model_name": (
        "model", "model_name_or_path", "model_id", "model_path", "model_id_or_path", "base_model",
        "pretrained_model_name_or_path", "checkpoint", "ckpt",
    ),
    "revision": ("model_revision", "model_version"),
    "from_modelscope": ("use_modelscope",),
    "train_dataset": (
        "dataset", "datasets", "dataset_name", "dataset_path", "data_path", "data", "train_data",
        "train_file", "train_files", "training_file", "train_csv", "train_data_path", "input",
    ),
    "eval_dataset": (
        "val_dataset", "valid_dataset", "validation_dataset", "eval_file", "validation_file", "val_file",
        "eval_data", "test_data", "test_dataset", "val_data", "dev_dataset",
    ),
    "input": (
        "input_file", "csv", "file", "dataset", "datasets", "dataset_name", "data", "data_path", "test_file",
        "val_dataset", "test_data", "train_dataset", "dataset_path", "eval_dataset",
    ),
    "output": (
        "output_dir", "output_path", "out", "out_dir", "output_file", "result_path", "results", "save_dir",
        "save_path", "export_dir", "work_dir",
    ),
    "overwrite": ("overwrite_output_dir", "force", "overwrite_cache"),
    "base_dir": ("audio_dir", "data_dir", "dataset_dir", "audio_folder", "media_dir", "root", "root_dir"),
    "system_prompt": ("system", "default_system", "system_message"),
    "user_prompt": ("prompt", "instruction", "query", "initial_prompt", "question"),
    "max_audio_seconds": (
        "max_duration", "max_audio_length", "max_duration_in_seconds", "max_input_length", "max_audio_len",
    ),
    "num_workers": ("preprocessing_num_workers", "dataset_num_proc", "num_proc", "threads", "n_workers"),
    "tokenizing_batch_size": ("preprocessing_batch_size",),
    "lr": ("learning_rate", "peak_lr", "max_lr"),
    "lr_scheduler": ("lr_scheduler_type", "scheduler", "lr_decay_style"),
    "num_epochs": ("num_train_epochs", "epochs", "n_epochs", "max_epochs", "epoch"),
    "max_steps": ("num_steps", "max_train_steps", "train_iters", "num_train_steps"),
    "warmup_steps": ("num_warmup_steps", "warmup", "lr_warmup_steps", "warmup_iters"),
    "warmup_ratio": ("warmup_fraction", "lr_warmup_fraction", "warmup_proportion"),
    "weight_decay": ("wd",),
    "max_grad_norm": ("grad_clip", "clip_grad", "gradient_clipping", "clip_grad_norm", "gradient_clip_val"),
    "batch_size": (
        "per_device_train_batch_size", "train_batch_size", "micro_batch_size", "per_gpu_train_batch_size",
        "max_batch_size", "per_device_batch_size", "bs", "per_device_eval_batch_size",
    ),
    "eval_batch_size": ("per_device_eval_batch_size", "val_batch_size", "per_gpu_eval_batch_size"),
    "gradient_accumulation_steps": ("accumulation_steps", "grad_accum", "accumulate_grad_batches"),
    "gradient_checkpointing": ("use_gradient_checkpointing", "activation_checkpointing", "recompute"),
    "method": (
        "finetuning_type", "train_type", "tuner_type", "sft_type", "tuner", "adapter", "use_peft", "peft",
        "use_lora", "lora",
    ),
    "train_target": (
        "lora_target", "lora_target_modules", "target_modules", "lora_modules", "freeze_vit", "freeze_llm",
        "freeze_aligner", "freeze_encoder", "freeze_vision_tower", "freeze_multi_modal_projector",
        "freeze_language_model", "trainable_parameters", "modules_to_save", "freeze_audio_tower",
    ),
    "lora_rank": ("lora_r", "r", "rank", "lora_dim"),
    "lora_alpha": ("alpha",),
    "rslora": ("use_rslora",),
    "dora": ("use_dora", "lora_dora", "peft_use_dora"),
    "quantization": (
        "load_in_4bit", "load_in_8bit", "quantization_bit", "quant_bits", "quant_method", "bits", "use_8bit",
        "quantization_method", "use_qlora", "qlora",
    ),
    "data_workers": ("dataloader_num_workers",),
    "compile": ("torch_compile", "use_compile"),
    "eval_steps": ("eval_interval", "evaluation_steps", "val_check_interval", "eval_strategy"),
    "save_steps": ("save_interval", "checkpointing_steps", "save_strategy", "save_freq"),
    "save_total_limit": ("max_checkpoints", "keep_last_n", "checkpoints_total_limit"),
    "logging_steps": ("log_interval", "log_every", "log_every_n_steps"),
    "report_to": ("log_with", "logger", "use_wandb", "wandb", "wandb_project", "tracker"),
    "merge_lora": ("merge", "merge_adapter", "export_merged"),
    "resume_from_checkpoint": ("resume", "resume_from", "auto_resume"),
    "bf16": ("torch_dtype", "dtype", "precision", "mixed_precision", "compute_type"),
    "max_new_tokens": ("max_tokens", "max_completion_tokens"),
    "num_beams": ("beam_size", "beams", "beam"),
    "do_sample": ("sample", "sampling"),
    "encoding": ("csv_encoding", "file_encoding"),
}  # fmt: skip

#: Options of other tools that we have no option for, and what to do instead; for every command.
_REMARKS = {
    "trust_remote_code": "no code of a model folder is ever run, and none is needed",
    "fp16": "float16 is not offered; here it is --bf16",
    "half": "float16 is not offered; here it is --bf16",
    "device": "a GPU is used where there is one; CUDA_VISIBLE_DEVICES= (empty) keeps to the CPU",
    "device_map": "a GPU is used where there is one; torchrun or accelerate launch use several",
    "gpus": "torchrun --nproc-per-node N --no-python mdl-toolkit … uses N GPUs",
    "num_gpus": "torchrun --nproc-per-node N --no-python mdl-toolkit … uses N GPUs",
    "nproc_per_node": "it belongs before mdl-toolkit: torchrun --nproc-per-node N --no-python mdl-toolkit …",
    "local_rank": "the launcher sets it in the environment",
    "template": "the model folder's own chat template is used",
    "chat_template": "the model folder's own chat template is used",
    "model_type": "it is read from the model's config.json",
    "attn_implementation": "the fastest attention that the machine has is used",
    "attn_impl": "the fastest attention that the machine has is used",
    "flash_attn": "the fastest attention that the machine has is used",
    "use_flash_attn": "the fastest attention that the machine has is used",
    "language": "say it in the prompt (--user-prompt)",
    "task": "say it in the prompt (--user-prompt)",
    "sampling_rate": "every recording is resampled to what the model hears",
    "sample_rate": "every recording is resampled to what the model hears",
    "text_column": "the column of the answer has to be named prediction",
    "text_column_name": "the column of the answer has to be named prediction",
    "dataset_text_field": "the column of the answer has to be named prediction",
    "audio_column": "the column of the recordings has to be named audio",
    "audio_column_name": "the column of the recordings has to be named audio",
    "cache_dir": "HF_HOME in the environment names the folder where models are kept",
    "use_hf": "models come from the Hub unless --from-modelscope is given",
    "batch_size": "--tokenizing-batch-size is the number of rows that a process takes at a time",
}

_NEVER_CUT = "clips and answers are never cut; --max-audio-seconds limits a clip, --max-tokens a micro-batch"
_ALWAYS_PACKED = "batches are always packed, without padding"
#: Options of other tools that we have no option for, and what to do instead; for ``train`` only.
_TRAINING = {
    "deepspeed": (
        "launch with accelerate, whose ZeRO stage becomes --sharding: accelerate launch --config_file F "
        "--no_python mdl-toolkit train …"
    ),
    "fsdp": "here it is --sharding full, or an accelerate config with FSDP",
    "fsdp_config": "launch with accelerate launch --config_file F --no_python mdl-toolkit train …",
    "zero_stage": "here it is --sharding: stages 1 and 2 are optimizer, 3 is full",
    "config_file": "it belongs before mdl-toolkit: accelerate launch --config_file F --no_python …",
    "ddp_timeout": "nothing to set here; a process that waits for others too long says so",
    "ddp_find_unused_parameters": "nothing to set here",
    "remove_unused_columns": "nothing to set here",
    "optim": "AdamW is used; --weight-decay is its decay",
    "optimizer": "AdamW is used; --weight-decay is its decay",
    "max_seq_length": _NEVER_CUT,
    "max_seq_len": _NEVER_CUT,
    "max_length": _NEVER_CUT,
    "cutoff_len": _NEVER_CUT,
    "sequence_len": _NEVER_CUT,
    "model_max_length": _NEVER_CUT,
    "packing": _ALWAYS_PACKED,
    "padding_free": _ALWAYS_PACKED,
    "group_by_length": _ALWAYS_PACKED,
    "do_train": "mdl-toolkit train trains",
    "do_eval": "--eval-dataset names the data to evaluate on",
    "do_predict": "mdl-toolkit inference predicts",
    "stage": "train is supervised fine-tuning",
    "evaluation_strategy": "here it is --eval-steps",
    "val_size": "give the held-out rows as --eval-dataset",
    "val_set_size": "give the held-out rows as --eval-dataset",
    "split_dataset_ratio": "give the held-out rows as --eval-dataset",
    "load_best_model_at_end": "every checkpoint that --save-total-limit keeps can be given to inference",
    "logging_dir": "metrics.jsonl and the trackers' files are in --output",
    "run_name": "the run has the name of its folder, --output",
    "push_to_hub": "`hf upload` sends OUTPUT/final when it is ready",
    "hub_model_id": "`hf upload` sends OUTPUT/final when it is ready",
    "plot_loss": "metrics.jsonl has the loss of every step; --report-to tensorboard draws it",
    "adapters": "a run goes on from its own checkpoints (--resume-from-checkpoint)",
    "adapter_name_or_path": "a run goes on from its own checkpoints (--resume-from-checkpoint)",
    "tf32": "nothing to set here",
    "data_seed": "here it is --seed",
    "streaming": "converted folders are read from disk as they are needed",
    "lazy_tokenize": "files are converted once, before training",
}


def suggestion(name: str, known: Collection[str], form: Callable[[str], str] = str) -> str:
    """The end of a message about an option that doesn't exist: what to use instead, or a similar name.

    Args:
        name: The name that was typed, with underscores.
        known: The names of the command's options.
        form: How to write an option's name: as a flag, or as it is.

    Returns:
        ``: here it is …``, ``; did you mean …?`` or nothing.
    """
    remarks = {**(_REMARKS if "model_name" in known else {}), **(_TRAINING if "lr" in known else {})}
    if name in remarks:
        return f": {remarks[name]}"
    for ours, theirs in _OURS.items():
        if name in theirs and ours in known:
            return f": here it is {'INPUT' if ours == 'input' else form(ours)}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {form(near[0])}?" if near else ""
