"""The shape that bytequilt is measured in beside its peers, which are in `bytequilt.evals.peers`."""

from bytequilt.config import BLTConfig, EntropyConfig, HashConfig, StackConfig

LOCAL = {"heads": 4, "window": 512, "rope_theta": 500_000.0}
SMALL = BLTConfig(
    encoder=StackConfig(dim=256, layers=1, ffn_dim=704, **LOCAL),
    latent=StackConfig(dim=512, layers=8, heads=8, ffn_dim=1408, rope_theta=500_000.0),
    decoder=StackConfig(dim=256, layers=4, ffn_dim=704, **LOCAL),
    hash=HashConfig(rows=4001),
    slots=2,
    cross_heads=4,
)
"""37.7 M parameters; 41 M with the entropy model."""
SMALL_ENTROPY = EntropyConfig(dim=256, layers=4, heads=4, ffn_dim=704)
