"""From a question to an answer: find, arrange, explain, log what was shown."""
