"""Federation: this node's cards for its peers, and theirs for this node."""
