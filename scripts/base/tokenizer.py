"""The small base model's tokenizer and chat template."""

from __future__ import annotations

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
