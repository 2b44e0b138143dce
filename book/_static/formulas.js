// Formulas are drawn a few at a time, those in sight first: all at once they stop the page for seconds.
"use strict";
const AT_A_TIME = 50; // milliseconds; on a page that takes longer to lay out anew, as long as that takes
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
  let pace = AT_A_TIME;
  for (const one of waiting) {
    await handleRetriesFor(() => one.render(page)); // what it still has to load is waited for
    const now = performance.now();
    if (now - last > pace) {
      page.addStyleSheet();
      await pause();
      last = performance.now();
      pace = Math.min(Math.max(AT_A_TIME, last - now), 150);
    }
  }
  page.updateDocument();
}

window.MathJax = { ...window.MathJax, startup: { pageReady: draw } };
