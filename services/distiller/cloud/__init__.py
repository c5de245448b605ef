"""The teacher `openai`: a language model behind any server that speaks the OpenAI API."""

from services.distiller.cloud.distiller import CloudDistiller

__all__ = ["CloudDistiller"]
