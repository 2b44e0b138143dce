// What tools/pdf.py does with the whole book in the browser before it is printed.

// A sum that its box cannot hold is made smaller, down to this share; below it nobody could read it.
const LEAST = 0.55;
const WIDE = 300; // a bracket of this many pixels is broken, too

function prepare() {
  for (const one of document.querySelectorAll('details')) one.open = true;
  for (const one of document.querySelectorAll('.toggle-hidden')) one.classList.remove('toggle-hidden');
  // Code of a few lines stays on one page.
  for (const one of document.querySelectorAll('pre')) {
    const box = one.closest('.cell_input') ?? one.parentElement;
    if (one.textContent.split('\n').length < 22) box.classList.add('short');
  }
}

// The width that is left for an element beside what floats in its box (the number of an equation).
function room(element) {
  let box = element.parentElement;
  while (getComputedStyle(box).display === 'inline') box = box.parentElement;
  const style = getComputedStyle(box);
  return box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
}

// A formula is one picture to a reader of the screen, told as its TeX, and not a hundred letters.
function told() {
  for (const item of MathJax.startup.document.math) {
    item.typesetRoot?.setAttribute('role', 'img');
    item.typesetRoot?.setAttribute('aria-label', item.math.trim().replace(/\s+/g, ' '));
  }
}

// After these a line may end: = + - < > ≤ ≥ ≈ ≠ → , and the like.
const BREAKS = /\bmjx-c(3D|2B|2212|3C|3E|2264|2265|2248|2260|2192|2C|223C|D7|22C5)\b/;

function broken(formula, math) {
  const loose = { display: 'inline', whiteSpace: 'nowrap', lineHeight: 'normal' };
  Object.assign(formula.style, loose);
  Object.assign(math.style, loose);
  const open = (box) => {
    const parts = [...box.children];
    for (const part of parts) {
      if (part.tagName === 'MJX-MO' && BREAKS.test(part.innerHTML)) {
        const chance = document.createElement('wbr');
        chance.style.whiteSpace = 'normal';
        part.after(chance);
      } else if (/^MJX-(MROW|TEXATOM|MSTYLE)$/.test(part.tagName) && (parts.length === 1 || part.offsetWidth > WIDE)) {
        part.style.display = 'inline';
        open(part);
      }
    }
  };
  open(math);
}

function fit() {
  const found = { formulas: 0, tables: 0, broken: 0 };
  for (const table of document.querySelectorAll('main table:not(.kexue-claims)')) {
    const most = room(table);
    let share = 1;
    while (table.getBoundingClientRect().width > most + 1 && share > LEAST) {
      share -= 0.05;
      for (const cell of table.querySelectorAll('td, th')) {
        cell.style.fontSize = `${share}em`;
        cell.style.paddingRight = `${0.8 * share}rem`;
      }
    }
    found.tables += share < 1;
  }
  const measured = [];
  for (const formula of document.querySelectorAll('main mjx-container')) {
    const math = formula.querySelector('mjx-math');
    if (!math) continue;
    const number = formula.parentElement.querySelector(':scope > .eqno');
    measured.push([formula, math, math.getBoundingClientRect().width, room(formula), number?.offsetWidth ?? 0]);
  }
  for (const [formula, math, width, most, number] of measured) {
    const beside = most - (number ? number + 8 : 0);
    let share = width <= beside + 1 ? 1 : beside / width;
    if (!number && share < 0.8 && formula.getAttribute('display') !== 'true') {
      broken(formula, math); // in a line of text: it goes on in the next one
      found.broken += 1;
      continue;
    }
    if (share < 0.8) share = Math.min(1, most / width); // the number then stands above
    if (share < 1) {
      share = Math.max(LEAST, 0.985 * share);
      const now = parseFloat(getComputedStyle(formula).fontSize);
      formula.style.fontSize = `${share * now}px`;
      found.formulas += 1;
    }
  }
  return found;
}

// Everything on the pages that a reader would call broken; each as one line of text.
function faults() {
  const found = [];
  const main = document.querySelector('main').getBoundingClientRect();
  const where = (e) => {
    const page = e.closest('article')?.id.replace(/--$/, '') ?? '?';
    const words = (e.closest('section')?.querySelector('h1, h2, h3')?.textContent ?? '').slice(0, 50);
    return `${page}, ${words || 'top'}: ${e.textContent.replace(/\s+/g, ' ').slice(0, 60)}`;
  };
  const kinds = 'mjx-math, pre, table, svg, img, p, li, dt, h1, h2, h3, figure, code, output';
  for (const e of document.querySelectorAll('main :is(' + kinds + ')')) {
    if (e.tagName === 'svg' && e.parentElement.closest('svg')) continue;
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    if (e.tagName === 'MJX-MATH' && e.style.display === 'inline') {
      for (const part of e.querySelectorAll('*')) {
        const inner = part.getBoundingClientRect();
        if (inner.right > main.right + 1.5) {
          found.push(`formula ${Math.round(inner.right - main.right)} px too wide (${where(e)})`);
          break;
        }
      }
      continue;
    }
    const wide = box.right > main.right + 1.5 || box.left < main.left - 1.5;
    if (wide || (e.tagName === 'PRE' && e.scrollWidth > e.clientWidth + 1)) {
      const over = Math.max(box.right - main.right, main.left - box.left, e.scrollWidth - e.clientWidth);
      found.push(`${e.tagName.toLowerCase()} ${Math.round(over)} px too wide (${where(e)})`);
    }
  }
  for (const e of document.querySelectorAll('mjx-merror')) found.push(`formula in error (${where(e)})`);
  for (const e of document.querySelectorAll('mjx-mtext[style*="red"]')) {
    found.push(`unknown command in a formula (${where(e)})`); // MathJax writes its name in red
  }
  for (const e of document.querySelectorAll('main :is(span, div).math')) {
    if (!e.querySelector('mjx-container')) found.push(`formula not set (${where(e)})`);
  }
  for (const e of document.querySelectorAll('main img')) {
    if (!e.naturalWidth) found.push(`picture not found: ${e.getAttribute('src').slice(0, 60)}`);
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    if (texts.currentNode.data.includes('\uFFFD')) {
      found.push(`a character was lost (${where(texts.currentNode.parentElement)})`);
    }
  }
  for (const e of document.querySelectorAll('a[href^="#"]')) {
    const id = decodeURIComponent(e.getAttribute('href').slice(1));
    if (!document.getElementById(id)) found.push(`a link leads nowhere: #${id}`);
  }
  return found;
}
