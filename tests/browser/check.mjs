// Looks at the debug pages with Chromium: node check.mjs CHROMIUM PORT PORT_WITHOUT_RULE [DIRECTORY].
// Screenshots go to the directory. tests/browser.rs starts the servers.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [executablePath, port, closed, shots] = process.argv.slice(2);
const origin = `http://localhost:${port}`;
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--host-resolver-rules=MAP evil.example 127.0.0.1'],
});
let facts = 0;
function fact(holds, text) {
  assert.ok(holds, text);
  console.log(`ok  ${text}`);
  facts += 1;
}

/** A page of which everything that goes wrong, or elsewhere, is noted. */
async function open(options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const noted = { wrong: [], origins: new Set() };
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) noted.wrong.push(message.text());
  });
  page.on('pageerror', (error) => noted.wrong.push(String(error)));
  page.on('dialog', (dialog) => {
    noted.wrong.push(`dialog ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('request', (request) => {
    if (!request.url().startsWith('data:')) noted.origins.add(new URL(request.url()).origin);
  });
  return { page, noted, close: () => context.close() };
}

/** The numbers of a column of the routes table. */
const column = (page, n) =>
  page.$$eval('#routes tbody tr', (rows, n) => rows.map((row) => {
    const cell = row.cells[n];
    return Number((cell.title || cell.textContent).replace(/[^0-9.]/g, ''));
  }), n);
const isSorted = (list, sign) => list.every((value, n) => n === 0 || sign * (list[n - 1] - value) >= 0);

// The first page: what it loads, and what it draws.
{
  const { page, noted, close } = await open({ viewport: { width: 1280, height: 900 } });
  const response = await page.goto(`${origin}/debug`);
  fact(response.status() === 200, 'the page is served to loopback');
  const size = (await response.body()).length;
  fact(size < 60 * 1024, `it has ${size} bytes, less than 60 KiB`);
  const lines = await page.$$eval('svg path.line', (paths) => paths.map((path) => path.getTotalLength()));
  fact(lines.length === 5 && lines.every((length) => length > 300), `5 lines are drawn: ${lines.map(Math.round)}`);
  const stroke = await page.$eval('svg path.line', (path) => getComputedStyle(path).strokeWidth);
  fact(stroke === '2px', 'the style passes the policy by its hash');
  fact(await page.$$eval('img, iframe, script, object, embed', (all) => all.length) === 0, 'nothing hostile became an element');
  const text = await page.textContent('#routes');
  fact(text.includes('<script>alert(1)</script>') && text.includes("'\"><img src=x onerror=alert(2)>"), 'hostile names are shown as text');
  const hits = await page.$$eval('#routes tbody td:nth-child(9)', (cells) => cells.map((cell) => cell.textContent));
  fact(hits.some((hit) => /^\d+\.\d %$/.test(hit)), `the hit rate of the pool is shown by route: ${hits.slice(0, 3)}`);
  fact(await page.evaluate(() => typeof window.pwned) === 'undefined', 'no hostile name has run');

  await page.click('#routes th >> text=Requests');
  fact(page.url().includes('sort=requests&order=desc'), 'a heading is a link');
  fact(isSorted(await column(page, 1), 1), 'sorted by requests, most first');
  await page.click('#routes th >> text=Requests');
  fact(isSorted(await column(page, 1), -1), 'again: fewest first');
  fact(await page.getAttribute('#routes th:nth-child(2)', 'aria-sort') === 'ascending', 'and it says so');
  await page.focus('#routes th:nth-child(6) a');
  await page.keyboard.press('Enter');
  await page.waitForURL(/sort=bytes_max/);
  fact(isSorted(await column(page, 5), 1), 'by keyboard: sorted by the largest request');

  for (const path of ['requests', 'tasks']) {
    await page.goto(`${origin}/debug`);
    await page.click(`nav a[href$="${path}"]`);
    fact(new URL(page.url()).pathname === `/debug/${path}`, `the link to ${path} leads there`);
  }
  await page.click('nav a >> text=Overview');
  fact(await page.$eval('h1', (title) => title.textContent) === 'Memory by route', 'and back to the first page');
  fact(noted.wrong.length === 0, `nothing in the console: ${noted.wrong}`);
  fact([...noted.origins].join() === origin, `one origin: ${[...noted.origins]}`);
  await close();
}

// Without scripts.
{
  const { page, close } = await open({ javaScriptEnabled: false });
  await page.goto(`${origin}/debug`);
  await page.click('#routes th >> text=Allocations');
  fact(page.url().includes('sort=count'), 'sorting needs no JavaScript');
  await close();
}

// Who may not see it.
{
  const { page, close } = await open();
  const status = async (url) => (await page.goto(url)).status();
  fact(await status(`http://localhost:${closed}/debug`) === 403, 'without a rule: 403');
  fact(await status(`http://evil.example:${port}/debug`) === 403, 'under a name that was rebound: 403');
  fact(await status(`http://evil.example:${port}/hello`) === 200, 'while the application is served');
  const answer = page.waitForResponse((response) => response.url() === `${origin}/debug`);
  await page.evaluate((url) => { location.href = url; }, `${origin}/debug`);
  fact((await answer).status() === 403, 'a link on another site: 403');
  await page.waitForURL(`${origin}/debug`);
  await page.goto(`http://evil.example:${port}/hello`);
  const read = await page.evaluate((url) => fetch(url).then(() => 'read', () => 'refused'), `${origin}/debug/snapshot.json`);
  fact(read === 'refused', 'a script of another site cannot read it');
  const framed = page.waitForResponse((response) => response.url() === `${origin}/debug/tasks`);
  await page.evaluate((url) => {
    const frame = document.createElement('iframe');
    frame.src = url;
    document.body.append(frame);
  }, `${origin}/debug/tasks`);
  fact((await framed).status() === 403, 'a frame on another site: 403');
  await close();
}

// The figures of a request, as the browser's own interface shows them.
{
  const { page, close } = await open();
  const response = await page.goto(`${origin}/hello`);
  const timings = await page.evaluate(() => performance.getEntriesByType('navigation')[0].serverTiming
    .map(({ name, duration, description }) => ({ name, duration, description })));
  const header = (await response.allHeaders())['server-timing'];
  fact(timings.length > 0 && timings.every((timing) => header.includes(timing.name)),
    `Server-Timing through performance: ${timings.map((timing) => timing.name)}`);
  const route = timings.find((timing) => timing.description === '/hello');
  fact(route !== undefined, 'with the route');
  await close();
}

// Screenshots, and a phone.
for (const [width, height] of [[1280, 900], [360, 740]]) {
  for (const colorScheme of ['light', 'dark']) {
    const { page, noted, close } = await open({ viewport: { width, height }, colorScheme });
    await page.goto(`${origin}/debug`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    fact(wide <= width, `${width} px, ${colorScheme}: nothing sticks out`);
    fact(noted.wrong.length === 0, `nothing in the console: ${noted.wrong}`);
    if (shots) await page.screenshot({ path: `${shots}/debug-${width}-${colorScheme}.png`, fullPage: true });
    await close();
  }
}
await browser.close();
console.log(`${facts} facts`);
