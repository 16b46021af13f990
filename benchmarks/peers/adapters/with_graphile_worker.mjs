// Graphile Worker as its page on performance advises: a local queue of 500, completions in batches.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { CHUNK, main } from "./common.mjs";

const logger = new Logger(() => () => {});

function graphile(parts) {
  const { Logger } = run;
  const options = (size) => {
    const pgPool = new pg.Pool({ ...parts, max: size });
    pgPool.on("error", console.error);
    pgPool.on("connect", (client) => client.on("error", console.error));
    return { pgPool, logger };
  };
  let utils;
  return {
    async install() {
      utils = await makeWorkerUtils(options(2));
      await utils.migrate();
    },
    async clients(count) {
      utils = await makeWorkerUtils(options(count));
      return (payload) => utils.addJob("bench", payload);
    },
    async bulk(payloads, delay) {
      const runAt = delay === undefined ? undefined : new Date(Date.now() + delay * 1000);
      for (let start = 0; start < payloads.length; start += CHUNK) {
        const some = payloads.slice(start, start + CHUNK);
        await utils.addJobs(some.map((payload) => ({ identifier: "bench", payload, runAt })));
      }
    },
    async work(kind, handler, slots) {
      await run({
        ...options(Math.min(slots + 2, 40)),
        taskList: { bench: handler },
        noHandleSignals: true,
        preset: {
          worker: {
            concurrentJobs: slots,
            localQueue: { size: 500 },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
          },
        },
      });
    },
  };
}

await main(graphile);
