"""Financial judgement by construction: sentences whose label follows from how they were made.

``lexicon`` holds the words, ``grammar`` combines them; ``mining`` finds real headlines that a rule
can label for certain.
"""
