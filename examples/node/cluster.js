// The cluster of Node.js: node examples/node/cluster.js [port]. Its port, line by line: examples/node_port.py.
'use strict';
const cluster = require('node:cluster');
const http = require('node:http');

const PORT = Number(process.argv[2] ?? 8000);

function primary() {
  // Keep track of http requests.
  let requests = 0;
  cluster.on('message', (worker, message) => {
    requests += message.requests;
    console.log(`requests: ${requests}`);
  });

  cluster.on('listening', (worker, address) => {
    console.log(`worker ${worker.id} listens on http://${address.address}:${address.port}`);
  });

  // A worker that was not asked to leave is replaced.
  cluster.on('exit', (worker, code, signal) => {
    console.log(`worker ${worker.id} exited with ${signal ?? code}, voluntary: ${worker.exitedAfterDisconnect}`);
    if (!worker.exitedAfterDisconnect) cluster.fork();
  });

  for (let n = 0; n < 2; n++) cluster.fork();
}

function worker() {
  // All workers share one address; the primary hands connections to them in turn.
  const server = http.createServer((request, response) => {
    process.send({ requests: 1 });
    response.end(`worker ${cluster.worker.id}\n`);

    // A worker ends by request, after its work, or by accident.
    if (request.url === '/leave') cluster.worker.disconnect();
    if (request.url === '/crash') response.on('close', () => process.exit(1));
  });
  server.listen(PORT, '127.0.0.1');
}

if (cluster.isPrimary) primary();
else worker();
