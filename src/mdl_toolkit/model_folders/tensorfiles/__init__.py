"""Safetensors files: read tensor by tensor from mapped memory, written tensor by tensor."""
