"""The paper's figures, and its tables made again."""
