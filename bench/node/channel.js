// channel.js NOTES TRIPS WINDOW HANDLES: the same as bench/programs/channel.py over process.send (JSON, its default).
'use strict';
const cluster = require('node:cluster');
const net = require('node:net');

const TEXT = 'a small message, such as programs send';
const [NOTES, TRIPS, WINDOW, HANDLES] = process.argv.slice(2).map(Number);

class Side {
  constructor(peer) {
    this.peer = peer; // a cluster.Worker in the primary, process in the worker
    this.left = 0;
    this.toSend = 0;
    this.finished = () => {};
    this.replies = [];
    this.waiting = [];
    peer.on('message', (body, handle) => this.take(body, handle));
  }

  take(body, handle) {
    switch (body.do) {
      case 'note':
        if (--this.left === 0) this.finished();
        break;
      case 'trip':
        this.peer.send({ do: 'back', n: body.n, text: TEXT });
        break;
      case 'back':
        this.back();
        break;
      case 'handle':
        if (handle) handle.end(`${body.n}`);
        break;
      case 'expect':
        this.expect(body.count).then(() => this.reply(null));
        break;
      case 'flood':
        this.flood(body.count);
        break;
      case 'hand':
        this.hand(body.count).then((good) => this.reply(good));
        break;
      case 'reply':
        if (this.waiting.length) this.waiting.shift()(body.value);
        else this.replies.push(body.value);
        break;
    }
  }

  reply(value) {
    this.peer.send({ do: 'reply', value });
  }

  nextReply() {
    if (this.replies.length) return Promise.resolve(this.replies.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  expect(count) {
    this.left = count;
    return new Promise((resolve) => (this.finished = resolve));
  }

  // Sends while `send` reports room, and goes on when the last message was written.
  async flood(count) {
    for (let n = 0; n < count; ) {
      let room = true;
      await new Promise((resolve) => {
        while (room && n < count) {
          const body = { do: 'note', n: n++, text: TEXT };
          // `send` reports that it is full only when it returns, so every message has the callback.
          room = this.peer.send(body, () => room || resolve());
        }
        if (room) resolve();
      });
    }
  }

  back() {
    this.left--;
    if (this.toSend) {
      this.toSend--;
      this.peer.send({ do: 'trip', n: this.toSend, text: TEXT });
    } else if (!this.left) this.finished();
  }

  trips(count, window) {
    const done = this.expect(count);
    this.toSend = count - window;
    for (let n = 0; n < window; n++) this.peer.send({ do: 'trip', n, text: TEXT });
    return done;
  }

  // Node cannot send one end of a socket pair, so these are connections to a server of its own.
  async hand(count) {
    const server = net.createServer({ pauseOnConnect: true });
    await new Promise((resolve) => server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, resolve));
    const answers = [];
    for (let n = 0; n < count; n++) {
      const accepted = new Promise((resolve) => server.once('connection', resolve));
      const mine = net.connect(server.address().port, '127.0.0.1');
      answers.push(
        new Promise((resolve) => {
          let text = '';
          mine.on('data', (data) => (text += data));
          mine.on('close', () => resolve(text === `${n}`));
          mine.on('error', () => {});
        }),
      );
      this.peer.send({ do: 'handle', n }, await accepted);
    }
    const good = (await Promise.all(answers)).filter(Boolean).length;
    server.close();
    return good;
  }
}

async function rate(count, work) {
  const start = process.hrtime.bigint();
  await work();
  return (count * 1e9) / Number(process.hrtime.bigint() - start);
}

async function primary() {
  const worker = cluster.fork();
  const side = new Side(worker);
  const found = {};
  await side.trips(500, 1);
  found.to_primary = await rate(NOTES, () => {
    const done = side.expect(NOTES);
    worker.send({ do: 'flood', count: NOTES });
    return done;
  });
  found.to_worker = await rate(NOTES, async () => {
    worker.send({ do: 'expect', count: NOTES });
    side.flood(NOTES);
    await side.nextReply();
  });
  found.trips = await rate(TRIPS, () => side.trips(TRIPS, 1));
  found.trips_windowed = await rate(TRIPS, () => side.trips(TRIPS, WINDOW));
  found.handles_to_worker_rate = await rate(HANDLES, async () => {
    found.handles_to_worker = await side.hand(HANDLES);
  });
  found.handles_to_primary_rate = await rate(HANDLES, async () => {
    worker.send({ do: 'hand', count: HANDLES });
    found.handles_to_primary = await side.nextReply();
  });
  found.handles_both_rate = await rate(2 * HANDLES, async () => {
    worker.send({ do: 'hand', count: HANDLES });
    found.handles_both = (await side.hand(HANDLES)) + (await side.nextReply());
  });
  console.log(JSON.stringify(found));
  worker.process.kill('SIGKILL');
  process.exit(0);
}

if (cluster.isPrimary) primary();
else new Side(process);
