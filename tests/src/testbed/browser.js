// Runs the code of a test in a page of Chromium: a line of JSON in, one out. It ends with its standard input.
'use strict';
const readline = require('node:readline');
const [library, executablePath, colorScheme] = process.argv.slice(-3);
const { chromium } = require(library);

const ARGUMENTS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
const AsyncFunction = (async () => {}).constructor;

async function main() {
  const browser = await chromium.launch({ executablePath, args: ARGUMENTS, headless: true });
  const context = await browser.newContext({ colorScheme, viewport: { width: 1360, height: 900 }, timezoneId: 'UTC' });
  const page = await context.newPage();
  // Everything that a user would find in the console, refused requests and breaches of the policy included.
  const complaints = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`exception: ${error.message}`));
  console.log(JSON.stringify({ value: browser.version() }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { code, given } = JSON.parse(line);
    let answer;
    try {
      const value = await new AsyncFunction('page', 'given', 'complaints', code)(page, given, complaints);
      answer = { value: value === undefined ? null : value };
    } catch (error) {
      answer = { error: String(error.stack || error) };
    }
    console.log(JSON.stringify(answer));
  }
  await browser.close();
}

main().catch((error) => {
  console.log(JSON.stringify({ error: String(error.stack || error) }));
  process.exit(1);
});
