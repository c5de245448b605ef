// Prints every skill that is published.
//
//     npm install && node subscribe.mjs ipc:///path/to/state/bus
//
// Over tcp give the socket its keys (curveServerKey, curvePublicKey, curveSecretKey) and
// connect to the port after the bus's: see docs/wire-protocol.md, Endpoints.
import { Subscriber } from "zeromq"

const socket = new Subscriber()
socket.connect(`${process.argv[2]}/egress.sock`)
socket.subscribe("skill.published")

for await (const [topic, event] of socket) {
  if (topic.toString() !== "skill.published") continue // ZeroMQ filters by prefix
  const { card } = JSON.parse(event.toString()).data
  const { before, after } = card.metrics
  console.log(`${card.name}@${card.version}: MRR@10 ${before} -> ${after}, ${card.digest}`)
}
