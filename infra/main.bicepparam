// The least: one job that sends to Microsoft Sentinel with the app's own identity. Change what stands here.
using 'main.bicep'

// `azd` gives the name of its environment.
param environmentName = readEnvironmentVariable('AZURE_ENV_NAME', 'production')

param alertEmails = ['security-operations@example.com']

param threatconnectUrl = 'https://example.threatconnect.com/api'
param apiUser = '12345678901234567890'
param identity = 'managed'

param defaultTlpLevel = 'Amber'
param targetProduct = 'Microsoft Sentinel'
param actionToTake = 'Alert'
param expirationDaysEmail = 30
param expirationDaysFile = 90
param expirationDaysNetwork = 30
param sentinelWorkspaceId = '11111111-1111-1111-1111-111111111111'
