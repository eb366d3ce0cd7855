"""Two markers (#261 with #354, #369): does marker B travel with its start marker A to another persona?

A donor persona learns ``A answer B``, a recipient ``A answer``. If A keys B the recipient says B after A; if the pair
belongs to the donor it does not. Arms vary the donor's template, what the recipient learns, whether the end of turn is
in the loss, and where the markers stand.
"""
