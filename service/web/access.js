// The API key, where the server asks for one: kept for as long as the tab is open, and sent as a header only.

const NAME = "sonotag.key";

export function setKey(key) {
  if (key) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
}

/** Returns the headers that show the key; null where there is none. */
export function authorization() {
  const key = sessionStorage.getItem(NAME);
  return key ? { Authorization: `Bearer ${key}` } : null;
}
