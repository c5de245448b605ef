"""Prints every skill that is published; needs pyzmq and nothing else.

    python bare_pyzmq.py ipc:///path/to/state/bus

Over tcp give the socket its keys before `connect`: `curve_serverkey`, `curve_publickey` and
`curve_secretkey` (docs/wire-protocol.md, Endpoints), and connect to the port after the bus's.
"""

import json
import sys

import zmq

socket = zmq.Context().socket(zmq.SUB)
socket.connect(f"{sys.argv[1]}/egress.sock")
socket.subscribe("skill.published")
while True:
    topic, event, *_ = socket.recv_multipart()
    if topic == b"skill.published":  # ZeroMQ filters by prefix
        card = json.loads(event)["data"]["card"]
        figures = card["metrics"]
        print(
            f"{card['name']}@{card['version']}: MRR@10 {figures.get('before')} -> "
            f"{figures.get('after')}, {card['digest']}",
            flush=True,
        )
