// pg-boss: batches of 1,000, which the handler takes at once, and LISTEN for new ones.

import { PgBoss } from "pg-boss";
import { CHUNK, main } from "./common.mjs";

function boss(parts) {
  let own;
  const start = async (max, more = {}) => {
    own = new PgBoss({ ...parts, max, ...more });
    own.on("error", (error) => console.error(error));
    await own.start();
  };
  const client = { supervise: false, schedule: false, migrate: false };
  return {
    async install() {
      await start(4);
      await own.createQueue("bench", { notify: true });
    },
    async clients(count) {
      await start(count, client);
      return (payload) => own.send("bench", payload);
    },
    async bulk(payloads, delay) {
      const startAfter = delay === undefined ? undefined : new Date(Date.now() + delay * 1000);
      for (let first = 0; first < payloads.length; first += CHUNK) {
        const some = payloads.slice(first, first + CHUNK);
        await own.insert("bench", some.map((data) => ({ data, startAfter })));
      }
    },
    async work(kind, handler, slots) {
      await start(10, { useListenNotify: true });
      const options = { batchSize: 1000, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
      await own.work("bench", options, (jobs) => Promise.all(jobs.map((job) => handler(job.data))));
    },
  };
}

await main(boss);
