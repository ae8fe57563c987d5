import { LabIcon } from '@jupyterlab/ui-components';

const DRAWING = `
    <path d="M3 3h2v16h16v2H3z"/>
    <path d="M7 5.5c1.500 7 5 10 13 10.500v-2C14 13.500 10.500 11 9 5z"/>
    <circle cx="13" cy="6" r="2"/><circle cx="19" cy="8.500" r="2"/>`;

/** A falling curve between two workers. */
export const runsIcon = new LabIcon({
  name: 'nbtrain:runs',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">${DRAWING}</g></svg>`
});

/** The same for the launcher's card: those beside notebooks' take an image, and no icon. */
export const runsImage = `data:image/svg+xml,${encodeURIComponent(
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><g fill="#1976d2">${DRAWING}</g></svg>`
)}`;
