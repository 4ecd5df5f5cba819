"""The generated long-tail set."""
