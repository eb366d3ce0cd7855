"""What work costs before it is spent: tokens, arithmetic, memory, time; and how near a run came to the limit.

Pure functions of shapes, lengths and hardware; efficiencies are measured, never assumed.
"""
