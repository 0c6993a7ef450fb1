"""The block model.lora of small adapters."""

LORA = {
    "rank": 4, "alpha": 8.0, "dropout": 0.0, "dora": False, "target_modules": ["to_q", "to_v"], "text_encoders": False,
    "text_encoder_learning_rate": None, "text_encoder_target_modules": ["q_proj", "v_proj", "out_proj"],
}  # fmt: skip
