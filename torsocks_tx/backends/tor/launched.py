"""placeholder while being written"""

from torsocks_tx.backends.tor.running import RunningSupply as LaunchedSupply
