// Formulas are drawn a few at a time, those in sight first: all at once they stop the page for seconds.
"use strict";
const AT_A_TIME = 80; // milliseconds
const FOUND = 10; // MathJax's number for a formula that is found and not yet read

async function draw() {
  const { handleRetriesFor } = MathJax._.mathjax.mathjax;
  const page = MathJax.startup.document;
  const pause = () => new Promise((done) => setTimeout(done));
  await pause(); // the page's other scripts are short
  page.findMath();
  page.getMetrics(); // in one look at the page
  const formulas = [...page.math];
  for (const one of formulas) one.state(FOUND);
  // From the first in sight to the end, then what is above.
  const below = (one) => one.start.node.parentElement.getBoundingClientRect().bottom > 0;
  const seen = Math.max(formulas.findIndex(below), 0);
  const waiting = [...formulas.slice(seen), ...formulas.slice(0, seen)].values();
  addEventListener("beforeprint", () => {
    for (const one of waiting) one.render(page);
    page.addStyleSheet();
  });
  let last = performance.now();
  for (const one of waiting) {
    await handleRetriesFor(() => one.render(page)); // what it still has to load is waited for
    if (performance.now() - last > AT_A_TIME) {
      page.addStyleSheet();
      await pause();
      last = performance.now();
    }
  }
  page.updateDocument();
}

window.MathJax = { ...window.MathJax, startup: { pageReady: draw } };
