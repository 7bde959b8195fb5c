"""The leaderboard: records verified, frozen, ranked, shown and cited."""
