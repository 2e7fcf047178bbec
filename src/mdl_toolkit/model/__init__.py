"""MiDashengLM, natively. Importing this registers config, model and processor with the Auto classes.

It also makes the process's first use of MKL's vector functions: whoever computes with a model has imported
this first, in one thread.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from mdl_toolkit.compat.torch_cpu import settle_vector_functions
from mdl_toolkit.model.config import DashengConfig, MiDashengLMConfig, decoder_config
from mdl_toolkit.model.midashenglm import MiDashengLMModel, MiDashengLMOutput
from mdl_toolkit.model.processor import MiDashengLMProcessor

AutoConfig.register(MiDashengLMConfig.model_type, MiDashengLMConfig, exist_ok=True)
AutoModel.register(MiDashengLMConfig, MiDashengLMModel, exist_ok=True)
AutoModelForCausalLM.register(MiDashengLMConfig, MiDashengLMModel, exist_ok=True)
AutoProcessor.register(MiDashengLMConfig, MiDashengLMProcessor, exist_ok=True)

settle_vector_functions()

__all__ = [
    "DashengConfig",
    "MiDashengLMConfig",
    "MiDashengLMModel",
    "MiDashengLMOutput",
    "MiDashengLMProcessor",
    "decoder_config",
]
