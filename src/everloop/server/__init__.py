"""OpenAI's wire format over HTTP."""
