"""MiDashengLM, natively. Importing this registers config, model and processor with the Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from mdl_toolkit.model.config import DashengConfig, MiDashengLMConfig, decoder_config
from mdl_toolkit.model.midashenglm import MiDashengLMModel, MiDashengLMOutput
from mdl_toolkit.model.processor import MiDashengLMProcessor

AutoConfig.register(MiDashengLMConfig.model_type, MiDashengLMConfig, exist_ok=True)
AutoModel.register(MiDashengLMConfig, MiDashengLMModel, exist_ok=True)
AutoModelForCausalLM.register(MiDashengLMConfig, MiDashengLMModel, exist_ok=True)
AutoProcessor.register(MiDashengLMConfig, MiDashengLMProcessor, exist_ok=True)

__all__ = [
    "DashengConfig",
    "MiDashengLMConfig",
    "MiDashengLMModel",
    "MiDashengLMOutput",
    "MiDashengLMProcessor",
    "decoder_config",
]
