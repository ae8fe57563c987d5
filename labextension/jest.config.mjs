export default {
  testEnvironment: 'jsdom',
  testMatch: ['<rootDir>/test/*.test.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', { jsc: { parser: { syntax: 'typescript' } } }] }
};
