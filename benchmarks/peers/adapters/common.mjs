// What the adapters of peers in Node.js share; the same commands as common.py.

import process from "node:process";

export const CHUNK = 1000;
export const IN_FLIGHT = 64;
const REPORTED = 50;

export const now = () => (performance.timeOrigin + performance.now()) / 1000;

export function tell(facts) {
  process.stdout.write(JSON.stringify(facts) + "\n");
}

class Tally {
  count = 0;
  waited = [];

  constructor() {
    let told = 0;
    setInterval(() => {
      if (this.count !== told) {
        told = this.count;
        tell({ count: told, at: now() });
      }
    }, REPORTED);
    process.stdin.on("end", () => {
      process.stdout.write(JSON.stringify({ waited: this.waited }) + "\n", () => process.exit(0));
    });
    process.stdin.resume();
  }
}

async function handlerOf(kind, tally, url) {
  if (kind === "noop") return async () => void (tally.count += 1);
  if (kind === "stamp") {
    return async (payload) => {
      tally.waited.push(now() - payload.at);
      tally.count += 1;
    };
  }
  const { Pool } = await import("undici");
  const pool = new Pool(url, { connections: IN_FLIGHT });
  return async (payload) => {
    const answer = await pool.request({
      path: "/jobs",
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(payload),
    });
    if (answer.statusCode >= 300) throw new Error(`status ${answer.statusCode}`);
    await answer.body.dump();
    tally.count += 1;
  };
}

const seconds = () => performance.now() / 1000;
const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time * 1000));

const COMMANDS = {
  async install(peer) {
    await peer.install();
  },

  async work(peer, { kind, url, slots = IN_FLIGHT }) {
    await peer.work(kind, await handlerOf(kind, new Tally(), url), slots);
    await new Promise(() => {});
  },

  async enqueue(peer, { clients, seconds: lasts }) {
    const call = await peer.clients(clients);
    await Promise.all(Array.from({ length: clients }, () => call({ at: 0 })));
    const started = seconds();
    let count = 0;
    const client = async () => {
      while (seconds() - started < lasts) {
        await call({ number: count });
        count += 1;
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
    tell({ count, seconds: seconds() - started });
  },

  async bulk(peer, { count, delay }) {
    await peer.clients(1);
    const payloads = Array.from({ length: count }, (_, number) => ({ number }));
    const started = seconds();
    await peer.bulk(payloads, delay);
    tell({ count, seconds: seconds() - started });
  },

  async trickle(peer, { rate, seconds: lasts }) {
    const call = await peer.clients(8);
    const started = seconds();
    const calls = [];
    for (let number = 0; ; number += 1) {
      const at = seconds() - started;
      if (at >= lasts) break;
      const due = (number + ((number * 0.618) % 1)) / rate;
      if (due > at) await sleep(due - at);
      calls.push(call({ at: now() }));
    }
    await Promise.all(calls);
    tell({ count: calls.length, seconds: seconds() - started });
  },
};

// host=… port=… as pg has it.
function partsOf(dsn) {
  const parts = Object.fromEntries(dsn.split(" ").map((part) => part.split("=")));
  return { host: parts.host, port: Number(parts.port), user: parts.user, database: parts.dbname };
}

export async function main(make) {
  const { dsn, ...options } = JSON.parse(process.argv[3]);
  await COMMANDS[process.argv[2]](make(partsOf(dsn)), options);
  process.exit(0);
}
