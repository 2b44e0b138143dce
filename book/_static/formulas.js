// Formulas are drawn a few at a time, those in sight first: all at once they stop the page for seconds.
"use strict";
const AT_A_TIME = 30; // milliseconds

async function draw() {
  const { startup, _ } = MathJax;
  const page = startup.document;
  const { handleRetriesFor } = _.mathjax.mathjax;
  const patiently = (action) => handleRetriesFor(action);
  page.findMath();
  page.getMetrics(); // of all of them in one look at the page
  const FOUND = 10;
  const waiting = [...page.math].filter((one) => one.state() < 200);
  // From the first in sight to the end, then what is above.
  const seen = waiting.findIndex((one) => one.start.node.parentElement.getBoundingClientRect().bottom > 0);
  waiting.push(...waiting.splice(0, Math.max(seen, 0)));
  for (const one of waiting) one.state(FOUND); // not yet read
  let last = performance.now();
  for (const one of waiting) {
    await patiently(() => one.render(page));
    if (performance.now() - last > AT_A_TIME) {
      page.addStyleSheet();
      await new Promise((done) => setTimeout(done));
      last = performance.now();
    }
  }
  page.updateDocument();
}

window.MathJax = { ...window.MathJax, startup: { pageReady: draw } };
