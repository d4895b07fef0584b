// Node's cluster: server.js rr|none MODE WORKERS. The same as bench/programs/server.py and replies.py.
'use strict';
const cluster = require('node:cluster');
const net = require('node:net');

const [policy, mode, workers] = process.argv.slice(2);
const REPLY = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok';

function primary() {
  cluster.schedulingPolicy = policy === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE;
  let waiting = Number(workers);
  cluster.on('listening', (worker, address) => {
    if (--waiting === 0) {
      const pids = Object.values(cluster.workers).map((each) => each.process.pid);
      console.log(JSON.stringify({ port: address.port, workers: pids }));
    }
  });
  for (let n = 0; n < workers; n++) cluster.fork();
  process.stdin.on('end', () => {
    for (const each of Object.values(cluster.workers)) each.process.kill('SIGKILL');
    process.exit(0);
  });
  process.stdin.resume();
}

function block(milliseconds) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

const handlers = {
  reply: (socket) => socket.once('data', () => socket.end(REPLY)),
  who: (socket) =>
    socket.on('data', () => {
      const body = String(process.pid);
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    }),
  hold: (socket) => socket.write(`${cluster.worker.id}\n`),
  work: (socket) =>
    socket.once('data', (data) => {
      block(Number(data));
      socket.end(`${cluster.worker.id}\n`);
    }),
};

function worker() {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    handlers[mode](socket);
  });
  server.listen({ host: '127.0.0.1', port: 0, backlog: 2048 });
}

if (cluster.isPrimary) primary();
else worker();
