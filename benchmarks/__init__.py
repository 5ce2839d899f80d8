"""What erllama costs, measured against the library it wraps.

`python -m benchmarks` runs everything; README.md says what each line means.
"""
