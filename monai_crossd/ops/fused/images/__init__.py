"""How images lie in memory, and float32 as scaled float16."""
