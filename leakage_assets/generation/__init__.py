"""Request plans, engines and the loop that fills sample stores."""
