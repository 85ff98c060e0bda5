"""HTTP: what the model server hears and says, in OpenAI's words."""
