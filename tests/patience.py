"""How long a test waits for a condition or for another process."""

#: Long: on a busy machine everything takes longer, and a test that passes never waits for this.
PATIENCE_S = 240.0
