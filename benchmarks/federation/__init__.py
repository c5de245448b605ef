"""How fast a card comes from a peer, beside a bare Flight stream and a plain TCP socket."""
