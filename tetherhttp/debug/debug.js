// Keeps the page current: fetches it again and changes in place what is different. Everything
// on the page works without this script too.
'use strict';

let every = 2000; // milliseconds between two updates
const patience = 10_000; // milliseconds to wait for an answer, and to show a notice
const main = document.getElementById('main');
const pause = document.getElementById('pause');
let timer, asking, paused = false, over = false;
let told = [], until; // the parameters of what the page reports, and until when

// show fetches a page and shows it here. A page that the user asked for is shown as it is; an
// update does not move what the user is about to press. A form that was sent is not aborted,
// but its answer is not shown if the user has moved on.
async function show(url, {init, asked = false} = {}) {
  clearTimeout(timer);
  if (!asking?.sends) asking?.abort();
  const mine = asking = new AbortController();
  mine.sends = !!init;
  try {
    const signal = AbortSignal.any([mine.signal, AbortSignal.timeout(patience)]);
    const answer = await fetch(url, {cache: 'no-store', ...init, signal});
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
    if (asking !== mine) return;
    const fresh = next.getElementById('main');
    if (!fresh) throw new Error('Answered ' + answer.status);
    if (answer.redirected) arrive(answer.url);
    over = !answer.ok; // a forgotten task does not come back
    document.title = next.title;
    update(fresh, asked);
    say('');
  } catch (e) {
    if (asking !== mine) return; // superseded
    say(e instanceof TypeError || e.name === 'TimeoutError' ? 'No connection' : e.message);
  }
  asking = null;
  later();
}

// again updates the page, unless a form is being sent, whose answer will.
function again() {
  if (asking?.sends) return;
  const url = new URL(location.href);
  if (performance.now() < until) for (const [name, value] of told) url.searchParams.set(name, value);
  show(url.href);
}

// arrive shows the URL of a page, without the parameters that are only for its notice.
function arrive(at) {
  const url = new URL(at);
  told = [...url.searchParams].filter(([name]) => ['asked', 'did', 'to'].includes(name));
  until = performance.now() + patience;
  for (const [name] of told) url.searchParams.delete(name);
  if (url.href !== location.href) history.replaceState(null, '', url);
}

function later() {
  clearTimeout(timer);
  if (!paused && !over && !document.hidden) timer = setTimeout(again, every);
}

function say(text) {
  document.getElementById('note').textContent = text;
}

// update turns main into fresh, and keeps the focus where it was, or in the same section.
function update(fresh, asked) {
  const had = document.activeElement, section = had?.closest('section');
  hold(!asked);
  morph(main, fresh, !asked);
  if (document.activeElement !== had && had?.isConnected) had.focus({preventScroll: true});
  if (document.activeElement !== had && section?.isConnected) {
    section.querySelector('[tabindex]')?.focus({preventScroll: true});
  }
}

// hold keeps boxes from shrinking, lest what is below jumps. Their limits are in the style.
function hold(gently) {
  for (const box of document.querySelectorAll('.scroll, .box')) {
    const rows = box.querySelector('tbody tr, li') && !box.querySelector('details[open]');
    box.style.minHeight = gently && rows ? Math.max(box.offsetHeight, parseFloat(box.style.minHeight) || 0) + 'px' : '';
  }
}

// morph turns one element into another. Children with an id are matched by it, others by their
// order. Elements with data-own belong to this script.
function morph(old, fresh, gently) {
  if ('own' in old.dataset) return;
  for (const {name, value} of fresh.attributes) {
    if (name !== 'open' && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const {name} of [...old.attributes]) {
    if (name !== 'open' && name !== 'style' && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  const known = new Map(), others = [];
  for (const node of old.childNodes) node.id ? known.set(node.id, node) : others.push(node);
  const want = [];
  for (const node of fresh.childNodes) {
    let have = known.get(node.id);
    if (!node.id) {
      const i = others.findIndex(o => o.nodeName === node.nodeName);
      have = others[i];
      others.splice(0, i + 1);
    }
    if (!have) have = document.importNode(node, true);
    else if (have.nodeType === Node.ELEMENT_NODE) morph(have, node, gently);
    else if (have.data !== node.data && !selected(have)) have.data = node.data;
    want.push(have);
  }
  arrange(old, want, gently);
  if ('value' in old && old.value !== fresh.value && !(gently ? old.form ?? old : old).contains(document.activeElement)) old.value = fresh.value;
}

// arrange makes nodes the children of a parent. In a table under the pointer, or with the
// focus, rows keep their places: rows that leave are only marked, and new ones are appended.
// Elements that the user has opened stay too.
function arrange(parent, nodes, gently) {
  const wanted = new Set(nodes);
  const hold = gently && parent.tagName === 'TBODY' && parent.childElementCount < 400 &&
    (parent.matches(':hover') || parent.contains(document.activeElement));
  for (const node of [...parent.childNodes]) {
    if (wanted.has(node)) continue;
    if (hold && node.dataset || gently && node.querySelector?.('details[open]')) node.dataset.left = '';
    else node.remove();
  }
  if (hold) {
    parent.append(...nodes.filter(node => node.parentNode !== parent));
    return;
  }
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else if (node.parentNode === parent && parent.moveBefore) parent.moveBefore(node, at); // keeps the focus
    else parent.insertBefore(node, at);
  }
}

function selected(node) {
  const s = getSelection();
  return !s.isCollapsed && s.containsNode(node, true);
}

// go shows another view of the page.
function go(url, replace) {
  told = [];
  history[replace ? 'replaceState' : 'pushState'](null, '', url);
  show(url, {asked: true});
}

document.addEventListener('click', event => {
  const link = event.target.closest('a[data-live][href]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.href);
});

function filter(form) {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ''));
  go('./?' + query, true);
}

let typing;
document.addEventListener('input', event => {
  clearTimeout(typing);
  const form = event.target.form;
  if (form?.id === 'filter') typing = setTimeout(filter, 200, form);
});

document.addEventListener('submit', event => {
  const form = event.target;
  event.preventDefault();
  clearTimeout(typing);
  if (form.id === 'filter') filter(form);
  else show(form.action, {init: {method: 'POST', body: new URLSearchParams(new FormData(form))}});
});

pause.hidden = false;
pause.addEventListener('click', () => {
  paused = !paused;
  pause.textContent = paused ? 'Resume' : 'Pause';
  paused ? later() : again();
});
document.addEventListener('visibilitychange', () => document.hidden || paused ? later() : again());
addEventListener('popstate', () => {
  told = [];
  show(location.href, {asked: true});
});
arrive(location.href);
later();
