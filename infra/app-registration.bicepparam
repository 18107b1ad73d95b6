using 'app-registration.bicep'

param defender = true
param graphIndicators = true
