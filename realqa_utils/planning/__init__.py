"""What a profile needs, told before anything is downloaded."""
