// online.js WORKERS: milliseconds from the first fork until every worker is online.
'use strict';
const cluster = require('node:cluster');

if (cluster.isPrimary) {
  const workers = Number(process.argv[2]);
  let waiting = workers;
  const start = process.hrtime.bigint();
  cluster.on('online', () => {
    if (--waiting) return;
    console.log(JSON.stringify({ ms: Number(process.hrtime.bigint() - start) / 1e6 }));
    for (const each of Object.values(cluster.workers)) each.process.kill('SIGKILL');
    process.exit(0);
  });
  for (let n = 0; n < workers; n++) cluster.fork();
}
