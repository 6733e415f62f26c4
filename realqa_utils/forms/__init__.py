"""What is asked and answered: attributes, scores as digits, conversations, chains of thought."""
