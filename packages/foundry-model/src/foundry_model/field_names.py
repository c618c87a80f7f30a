"""The common fields of `model` under the names that the families of transformers give them."""

# Common field -> the names that families give it.
FIELD_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "embedding_size": ("embedding_size", "word_embed_proj_dim"),
    "intermediate_hidden_size": (
        *("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "dff", "dim_ff", "decoder_ffn_dim"),
    ),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    "key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "activation_function": ("hidden_act", "hidden_activation", "activation_function", "activation", "afn"),
    "dropout": (
        *("hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "emb_pdrop", "resid_dropout"),
        *("residual_dropout", "embed_dropout", "embedding_dropout", "mlp_dropout", "dropout", "dropout_p"),
    ),
    "attention_dropout": (
        *("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attention_dropout_prob"),
        *("local_attention_probs_dropout_prob", "lsh_attention_probs_dropout_prob"),
    ),
    "norm_epsilon": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps", "eps"),
    "init_std": ("initializer_range", "init_std", "initializer_factor"),
    "state_size": ("state_size", "mamba_d_state", "ssm_state_size"),
    "bias": ("attention_bias", "mlp_bias", "use_bias", "enable_bias", "bias"),
    "tie_embeddings": ("tie_word_embeddings",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "context_length"),
    "vocab_size": ("vocab_size",),
    "pad_token_id": ("pad_token_id",),
    "bos_token_id": ("bos_token_id",),
    "eos_token_id": ("eos_token_id",),
}
# Randomness that no common field names: none, unless `extra` asks for it.
SILENT_DROPOUT = ("activation_dropout", "layerdrop", "decoder_layerdrop", "encoder_layerdrop")
