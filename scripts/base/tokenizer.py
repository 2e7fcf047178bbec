"""The text side of the small base model: its configuration, tokenizer, chat template and random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
]
VOCAB_SIZE = 1280

# How Qwen2 cuts text before its byte-level merges: contractions, words with the space before them, single
# digits, punctuation, line ends.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ENCODER_WIDTH, ENCODER_DEPTH, ENCODER_HEADS = 192, 5, 6
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS, DECODER_KV_HEADS, DECODER_MLP = 160, 3, 4, 2, 480
SUBSAMPLE = 5

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for content in message['content'] %}
            {%- if content['type'] == 'audio' or 'audio' in content or 'audio_url' in content %}
                {{- '<|audio_bos|><|AUDIO|><|audio_eos|>' }}
            {%- elif 'text' in content %}
                {{- content['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Words of everyday prompts and answers, so that they cost few tokens. Everything else is spelled by smaller
# pieces, down to single bytes.
COMMON_WORDS = """
the be to of and a in that have it for not on with he as you do at this but his by from they we say her
she or an will my one all would there their what so up out if about who get which go me when make can
like time no just him know take people into year your good some could them see other than then now look
only come its over think also back after use two how our work first well way even new want because any
these give day most us is are was were been has had did said each where why here more very much many long
little own same right left down off high low great small big large old young under between again still
never always often soon near far fast slow loud quiet soft hard short deep bright dark clear hear heard
listen sound sounds noise voice voices word words speech speak speaks speaking spoken say said sing sings
singing song music tone tones note notes chord chords scale melody rhythm beat beats drum drums bell
bells whistle horn piano guitar violin flute organ string strings bass trumpet clap claps knock knocks
click clicks tick ticks beep beeps buzz hum hiss rumble roar crackle pop thump ring rings ringing siren
alarm engine motor wind rain thunder water wave waves bird birds dog cat cow frog insect door doorbell
telephone clock car train ship plane helicopter machine fan footsteps heart heartbeat ball glass laser
radio signal silence zero one two three four five six seven eight nine ten eleven twelve twenty thirty
hundred thousand once twice yes no on off up down left right go stop start forward backward follow learn
bed bird cat dog happy house tree wow play pause next previous open close turn light lights volume louder
quieter set please thank thanks hello goodbye man woman child male female person speaker language english
chinese number digit digits letter name class label answer question describe what transcribe recognise
classify identify caption text recording clip audio file happy sad angry calm neutral afraid surprised
morning evening today tomorrow yesterday minute minutes second seconds hour week month red green blue
black white yellow pink brown rising falling steady major minor pure rough sharp dull fading growing
repeated regular irregular quickly slowly
"""

SENTENCES = """
What do you hear? | What is this sound? | Describe the sound. | Describe this recording in one sentence.
| Which word is spoken? | Which digit is spoken? | Transcribe the speech into text. | What is the speaker
saying? | Write down what is said. | Caption the audio. | Classify the sound. | Name the sound. | What
kind of sound is it? | How many times does it ring? | You are a helpful assistant. | You listen carefully
and answer in a few words. | A man says hello and a dog barks. | The engine starts and the car drives
away. | Turn on the lights in the kitchen, please. | Set an alarm for seven in the morning. | It is
raining and the wind is strong. | Someone knocks on the door three times. | The bell rings twice, then it
is quiet. | A bird sings in the tree. | The answer is yes. | The answer is no. | There is no speech in
this recording. | Play the next song. | Call me at five, four, three, two, one, zero.
"""


def build_tokenizer(captions: list[str]) -> Tokenizer:
    """Train the byte-level tokenizer on the captions of the lessons, common words and sentences.

    Args:
        captions: Answers and prompts, repeated as often as they shall weigh.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = COMMON_WORDS.split()
    sentences = [" ".join(sentence.split()) for sentence in SENTENCES.split("|")]
    corpus = [*captions, *sentences * 4, *words, *(f" {word}" for word in words * 3)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, {VOCAB_SIZE} are wanted")
    return tokenizer


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """``config.json`` in the published checkpoints' shape, with this model's sizes."""
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return {
        "architectures": ["MiDashengLMModel"],
        "model_type": "midashenglm",
        "audio_encoder_config": {
            "model_type": "midashenglm_dasheng_encoder",
            "embed_dim": ENCODER_WIDTH,
            "depth": ENCODER_DEPTH,
            "num_heads": ENCODER_HEADS,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
            "init_values": None,
            "drop_rate": 0.0,
            "attn_drop_rate": 0.0,
            "input_channels": 1,
            "patch_size": [64, 4],
            "patch_stride": [64, 4],
            "target_length": 1008,
            "n_mels": 64,
            "n_fft": 512,
            "win_length": 512,
            "hop_length": 160,
            "sample_rate": 16000,
            "f_min": 0,
            "f_max": 8000,
            "center": True,
        },
        "text_config": {
            "model_type": "qwen2_5_omni_text",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": DECODER_WIDTH,
            "intermediate_size": DECODER_MLP,
            "num_hidden_layers": DECODER_DEPTH,
            "num_attention_heads": DECODER_HEADS,
            "num_key_value_heads": DECODER_KV_HEADS,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "max_window_layers": DECODER_DEPTH,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "rope_scaling": {"mrope_section": [4, 8, 8], "rope_type": "default", "type": "default"},
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "sliding_window": 8192,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "use_cache": True,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        "subsample_factor": SUBSAMPLE,
        "audio_token_id": tokenizer.token_to_id("<|AUDIO|>"),
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
    }


def write_text_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Write everything of a model folder but its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    described = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "audio_token": "<|AUDIO|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "processor_class": "MiDashengLMProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for token in SPECIAL_TOKENS
        },
    }  # fmt: skip
    front_end = {
        "do_normalize": False,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "MiDashengLMProcessor",
        "return_attention_mask": True,
        "sampling_rate": 16000,
    }
    generation = {"do_sample": False, "eos_token_id": [end, pad], "pad_token_id": pad}
    for name, content in {
        "config.json": model_config(tokenizer),
        "tokenizer_config.json": described,
        "preprocessor_config.json": front_end,
        "generation_config.json": generation,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _waves(places: int, width: int) -> np.ndarray:
    """Sines and cosines of many rates, ``[places, width]``: a start from which positions are told apart."""
    rates = np.pi * 0.004 ** np.linspace(0, 1, width // 2)
    angles = np.arange(places)[:, None] * rates[None]
    return (0.5 * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).astype(np.float32)


def random_weights(seed: int, mean_db: np.ndarray, spread_db: np.ndarray) -> dict[str, np.ndarray]:
    """Weights to start from, float32, by their published names.

    Args:
        seed: Of the draw.
        mean_db: ``[64]`` typical level of each mel band in dB, which the frozen ``init_bn`` subtracts.
        spread_db: ``[64]`` their typical spread, by which it divides.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def normal(name: str, *shape: int, std: float = 0.02) -> None:
        weights[name] = rng.normal(0, std, shape).astype(np.float32)

    def linear(name: str, rows: int, columns: int, bias: bool = True, layers: int = 0) -> None:
        # What is added to the residual stream starts small where many layers add to it.
        normal(f"{name}.weight", rows, columns, std=(1 / (columns * max(1, 2 * layers))) ** 0.5)
        if bias:
            weights[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str, width: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = np.ones(width, np.float32)
        if bias:
            weights[f"{name}.bias"] = np.zeros(width, np.float32)

    width, encoder = ENCODER_WIDTH, "audio_encoder"
    norm(f"{encoder}.init_bn", 64)
    weights[f"{encoder}.init_bn.running_mean"] = mean_db.astype(np.float32)
    weights[f"{encoder}.init_bn.running_var"] = (spread_db**2).astype(np.float32)
    weights[f"{encoder}.init_bn.num_batches_tracked"] = np.array(1, np.int64)
    normal(f"{encoder}.patch_embed.proj.weight", width, 1, 64, 4, std=(1 / 256) ** 0.5)
    weights[f"{encoder}.patch_embed.proj.bias"] = np.zeros(width, np.float32)
    weights[f"{encoder}.time_pos_embed"] = np.ascontiguousarray(_waves(252, width).T[None, :, None])
    normal(f"{encoder}.freq_pos_embed", 1, width, 1, 1)
    for block in (f"{encoder}.blocks.{index}" for index in range(ENCODER_DEPTH)):
        norm(f"{block}.norm1", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width, layers=ENCODER_DEPTH)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.fc1", 4 * width, width)
        linear(f"{block}.mlp.fc2", width, 4 * width, layers=ENCODER_DEPTH)
    norm(f"{encoder}.norm", width)

    hidden = DECODER_WIDTH
    linear("audio_projector.net.0", hidden, SUBSAMPLE * width)
    linear("audio_projector.net.2", hidden, hidden)
    normal("decoder.model.embed_tokens.weight", VOCAB_SIZE, hidden, std=0.5)
    keys = hidden // DECODER_HEADS * DECODER_KV_HEADS
    for layer in (f"decoder.model.layers.{index}" for index in range(DECODER_DEPTH)):
        norm(f"{layer}.input_layernorm", hidden, bias=False)
        norm(f"{layer}.post_attention_layernorm", hidden, bias=False)
        linear(f"{layer}.self_attn.q_proj", hidden, hidden)
        linear(f"{layer}.self_attn.k_proj", keys, hidden)
        linear(f"{layer}.self_attn.v_proj", keys, hidden)
        linear(f"{layer}.self_attn.o_proj", hidden, hidden, bias=False, layers=DECODER_DEPTH)
        linear(f"{layer}.mlp.gate_proj", DECODER_MLP, hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", DECODER_MLP, hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", hidden, DECODER_MLP, bias=False, layers=DECODER_DEPTH)
    norm("decoder.model.norm", hidden, bias=False)
    normal("decoder.lm_head.weight", VOCAB_SIZE, hidden)
    return weights
