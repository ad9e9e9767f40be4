// Runs the servers of the testbed, and ends them: when nobody has touched the lease for a while or it is gone,
// when one of them ends by itself, or when asked to by a signal.
// It is its own process because a test run is many processes, none of which lives as long as the run.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const { directory, idleSeconds, servers } = JSON.parse(process.argv[2]);
const lease = path.join(directory, 'lease');
const state = path.join(directory, 'state.json');
let stopping = false;

const children = servers.map(({ name, command, args, cwd, env }) => {
  const log = fs.openSync(path.join(directory, `${name}.log`), 'a');
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', log, log] });
  child.on('error', (error) => stop(`${name} could not be started: ${error.message}`, 1));
  child.on('exit', (code, signal) => stop(`${name} ended: ${code ?? signal}`, 1));
  return child;
});

function idle() {
  try {
    return Date.now() - fs.statSync(lease).mtimeMs > idleSeconds * 1000;
  } catch {
    return true;
  }
}

// A user touches the lease first and reads the state file second. So: take the state file away, then look again.
function stopIfIdle() {
  if (!idle()) return;
  const aside = `${state}.aside`;
  const hadState = fs.existsSync(state);
  if (hadState) fs.renameSync(state, aside);
  if (idle()) {
    stop('idle', 0);
  } else if (hadState) {
    fs.renameSync(aside, state);
  }
}

function stop(reason, code) {
  if (stopping) return;
  stopping = true;
  console.error(`keeper: stopping: ${reason}`);
  fs.rmSync(state, { force: true });
  for (const child of children) child.kill('SIGTERM');
  setTimeout(() => {
    for (const child of children) child.kill('SIGKILL');
    // The logs of a failure stay for whoever looks into it.
    if (code === 0) fs.rmSync(directory, { recursive: true, force: true });
    process.exit(code);
  }, 2000);
}

setInterval(stopIfIdle, 1000);
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => stop(signal, 0));
