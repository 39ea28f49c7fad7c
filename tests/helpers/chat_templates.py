"""The chat templates of several families: those that TRL brings, and others by their public description."""

from importlib.resources import files

from tiny_tokenizers import byte_level

END = "<|endoftext|>"  # the tokenizer's end token, whatever the template ends a turn with

MISTRAL = (  # v0.3: the system turn and the tools go into the last user turn, the former only where that is the last turn of all
    "{%- if messages[0].role == 'system' %}{%- set system_message = messages[0].content %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set turns = messages %}{%- endif %}{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}{{- bos_token }}"
    "{%- for m in turns %}{%- if m.role == 'user' %}"
    "{%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{%- if loop.last and system_message is defined %}{{- '[INST] ' + system_message + '\n\n' + m.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- elif m.tool_calls %}{{- '[TOOL_CALLS] ' + (m.tool_calls | map(attribute='function') | list | tojson) + eos_token }}"
    "{%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- endfor %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WRITTEN = {"mistral": MISTRAL, "phi4": PHI4, "smollm2": SMOLLM2}

# What each writes between the prompt that a server sends and the answer; before the answer and after it, as part of what the model writes.
SHAPES = {
    "llama3": ("", "", "<|eot_id|>"),
    "llama3_1": ("", "", "<|eot_id|>"),
    "qwen2_5": ("", "", "<|im_end|>\n"),
    "qwen3": ("<think>\n\n</think>\n\n", "", "<|im_end|>\n"),
    "gemma3": ("", "", "<end_of_turn>\n"),
    "phi3": ("", "", f"<|end|>\n{END}"),
    "gptoss": ("<|channel|>final<|message|>", "", "<|return|>"),
    "qwen3_5_think": ("\n</think>\n\n", "", "<|im_end|>\n"),
    "nemotron_3_nano": ("</think>", "", "<|im_end|>\n"),
    "glm4moe": ("\n<think></think>\n", "", ""),
    "deepseek_r1_distill": ("\n</think>\n\n", "", "<｜end▁of▁sentence｜>"),
    "mistral": ("", " ", END),
    "phi4": ("", "", "<|im_end|>"),
    "smollm2": ("", "", "<|im_end|>\n"),
}


def template(name: str) -> str:
    return WRITTEN.get(name) or (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def speaking(name: str):
    """A tokenizer that decodes to the text it was given, with a family's template."""
    ends = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|return|>", "<｜end▁of▁sentence｜>")
    tokenizer = byte_level(extra=ends, eos_token=END, bos_token="<|begin_of_text|>")
    tokenizer.chat_template = template(name)
    return tokenizer
