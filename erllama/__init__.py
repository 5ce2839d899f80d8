"""erllama: an asyncio runtime around llama.cpp."""
